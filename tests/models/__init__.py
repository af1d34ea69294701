"""Models as people use them, differentiated whole and compared with GradientTape: `make test-models`."""
