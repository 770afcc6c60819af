"""From predictions to what is scored: thresholds, cut points, class factors and the bar for "new".

A network is taught to give probabilities; F-beta, kappa or MAP want something else of them than 0.5 and the most
probable class. A `Decision`, fitted on out-of-fold rows, turns predictions into predictions of the same shape on which
the task's plain rule (the most probable class, columns of at least 0.5, the best k) does what the metric wants.
Undecided predictions are what is kept in files, blended and taught; only a score and a submission are decided.

The numbers are of probabilities as they are, not of ranks within a fold or the test rows. On simulated folds ranks did
better only where the models' scales lie far apart (log-odds times e^±0.8, shifted by ±1: macro F1 0.493 against 0.410;
times e^±0.3, shifted by ±0.3: 0.493 against 0.489) and worse where the test rows have twice the odds (0.552 against
0.562); and a hidden test set may hold a handful of rows.

Whatever is fitted looks better on its own rows than it is: `nested` decides each row by a fit that has not seen it.
"""

from __future__ import annotations

from src.competition.decisions.decision import Decision
from src.competition.decisions.fits import FEW, fits_for
from src.competition.decisions.nested import fit, nested

__all__ = ["FEW", "Decision", "fit", "fits_for", "nested"]
