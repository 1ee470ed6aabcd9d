"""The fleet console: pages that people read and press, live, without a build step.

``fleet.console.app.routes`` gives the routes; ``fleet.manager.http_api.build_app`` mounts them.
"""
