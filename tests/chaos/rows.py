"""All rows, in the order of the page; `anything` stands beside it."""
from . import rows_any, rows_cluster, rows_fuzz, rows_limits, rows_proxy, rows_target

ROWS = [row for part in (rows_proxy, rows_target, rows_cluster, rows_fuzz, rows_limits) for row in part.ROWS]
ANYTHING = rows_any.ROW
BY_NAME = {row.name: row for row in ROWS + [ANYTHING]}
