"""Programs that hold the project to its promises: each says what it found, and fails when one is broken."""
