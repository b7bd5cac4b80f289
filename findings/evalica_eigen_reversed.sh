#!/usr/bin/env bash
# Versions: evalica 0.4.2, numpy 2.4.6, pandas 3.0.3.
# Behavior: eigen gives the highest score to the model that loses most: it multiplies by the transposed matrix of wins, so
#   a score is the sum of the scores of the models that won against it. The scores of every method are sorted, highest
#   first, so the weakest model is on top of the ranking. Both solvers do so; the other methods rank as expected.
# Likely guess: as with bradley_terry, elo, pagerank and average_win_rate, the best model has the highest score.
# Seen (a beats b and c in 3 of 4 games, b beats c in 3 of 4):
#   bradley_terry: a b c
#   average_win_rate: a b c
#   pagerank: a b c
#   eigen: c b a
#   eigen, solver=naive: c b a
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q evalica==0.4.2 numpy==2.4.6 pandas==3.0.3
environment/bin/python - <<'PYTHON' | tee seen
import evalica

X, Y = evalica.Winner.X, evalica.Winner.Y
games = [(*pair, won) for pair in ("ab", "ac", "bc") for won in (X, X, X, Y)]
first, second, winners = zip(*games)
for name in ("bradley_terry", "average_win_rate", "pagerank", "eigen"):
    print(f"{name}:", *getattr(evalica, name)(first, second, winners).scores.index)
print("eigen, solver=naive:", *evalica.eigen(first, second, winners, solver="naive").scores.index)
PYTHON
diff - seen <<'SEEN'
bradley_terry: a b c
average_win_rate: a b c
pagerank: a b c
eigen: c b a
eigen, solver=naive: c b a
SEEN
