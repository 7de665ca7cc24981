"""The server: GraphQL, probes, pictures and the page."""
