"""What the servers of this package share: who may come in, how they answer, where they listen."""
