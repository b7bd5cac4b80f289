"""`python -m rlhf.almanac` writes preference_data/almanac anew."""

from rlhf.almanac.build import write

for path in write():
    print(path)
