"""What every operator shares: loading the libraries, choosing a backend, registration, derivatives."""
