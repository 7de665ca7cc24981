"""What every database of a ledger has to do, as checks that run anywhere: in our tests, and by `sightline check`."""
