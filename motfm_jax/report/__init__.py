"""The paper's comparison: trains, samples and measures every system of a plan."""
