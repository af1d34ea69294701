"""What gradients cost: tf_symgrad against its peers. See `python -m benchmarks --help`."""
