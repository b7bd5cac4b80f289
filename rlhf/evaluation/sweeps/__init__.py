"""Jobs, leaderboard and figures of sweeps."""
