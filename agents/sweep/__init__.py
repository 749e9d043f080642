"""Many runs of one environment: over seeds and settings, on this machine or on a cluster."""
