"""Every system the paper compares, trained, sampled, measured and shown, from one plan."""
