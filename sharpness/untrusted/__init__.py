"""What reads files of unknown origin: each says what it expects, bounds what it takes, and runs nothing."""
