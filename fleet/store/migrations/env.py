"""What Alembic runs: migrate over the connection that ``open_store`` hands in."""

from alembic import context

from fleet.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
