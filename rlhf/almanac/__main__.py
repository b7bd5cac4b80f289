"""`python -m rlhf.almanac` rebuilds preference_data/almanac."""

from rlhf.almanac.build import write

for path in write():
    print(path)
