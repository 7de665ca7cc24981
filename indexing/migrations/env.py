"""What Alembic runs first: it goes on in the transaction that `indexing.migrations` has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
