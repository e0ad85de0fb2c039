"""Search: the policies with the best trade-offs between accuracy and cost.

`search` knows no Keras and no TFLite. It is handed a `SearchProblem` (policy space,
costs and constraints of one target) and an evaluator of policies, and returns a
`matar_tf.results.SearchResult`.
"""

from matar_tf.evolution._choosing import Expected, choose_by_expected
from matar_tf.evolution._limits import Limit
from matar_tf.evolution._pareto import dominates, hypervolume, pareto_front
from matar_tf.evolution._request import (
    absent_names,
    check_request,
    check_seed_names,
    is_front_name,
)
from matar_tf.evolution._rounds import most_measured, search_in_rounds
from matar_tf.evolution._run import search, search_order
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution._surrogate import Surrogate, SurrogateFactory
from matar_tf.evolution._thinning import thinned
from matar_tf.evolution.options import (
    SearchOptions,
    follow_up,
    from_nothing,
)
from matar_tf.evolution.problem import (
    BatchEvaluator,
    Evaluator,
    SearchProblem,
    evaluate_in_turn,
    fix_entries,
)
from matar_tf.results import Objective

__all__ = [
    "BatchEvaluator",
    "EvaluationStore",
    "Evaluator",
    "Expected",
    "Limit",
    "Objective",
    "SearchOptions",
    "SearchProblem",
    "Surrogate",
    "SurrogateFactory",
    "absent_names",
    "check_request",
    "check_seed_names",
    "choose_by_expected",
    "dominates",
    "evaluate_in_turn",
    "fix_entries",
    "follow_up",
    "from_nothing",
    "hypervolume",
    "is_front_name",
    "most_measured",
    "pareto_front",
    "search",
    "search_in_rounds",
    "search_order",
    "thinned",
]
