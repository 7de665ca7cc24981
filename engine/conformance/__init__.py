"""What every engine behind a port has to do, as checks that run anywhere: in our tests, and by `sightline check`."""
