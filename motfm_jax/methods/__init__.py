"""What is learned and how it is sampled."""
