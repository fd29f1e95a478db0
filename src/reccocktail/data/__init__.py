"""Data: raw sources -> tables -> filter -> split (warm, cold) -> candidates -> a prepared folder."""
