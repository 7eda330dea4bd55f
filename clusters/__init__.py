"""What hardware exists: GPU types, nodes, clusters and their topology graph."""
