"""Models as people use them, differentiated whole and trained, compared with GradientTape: `make test-models`."""
