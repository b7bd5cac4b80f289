"""`python -m rlhf.almanac` rebuilds preference_data/almanac and preference_data/arithmetic."""

from rlhf.almanac import arithmetic, build

for path in (*build.write(), *arithmetic.write()):
    print(path)
