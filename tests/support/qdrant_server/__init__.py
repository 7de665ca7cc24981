"""A stand-in for a Qdrant server: its protobuf over gRPC, Qdrant Edge behind it. README.md says what it covers."""
