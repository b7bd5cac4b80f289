"""Train with transformers' and TRL's trainers: arguments, exact resume, recovery from out-of-memory errors."""
