"""What methods of one kind share: a family is an algorithm with its paper's part left open."""
