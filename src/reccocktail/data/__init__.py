"""Data: raw sources -> tables -> filter -> split -> candidates -> a prepared folder."""
