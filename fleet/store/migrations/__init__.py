"""Alembic migrations, in the wheel: ``open_store`` runs them."""
