"""What a window of segments teaches: cloning, and the offline methods that learn from rewards."""
