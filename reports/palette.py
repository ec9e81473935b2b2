"""The colours of charts and page. M. Okabe and K. Ito, "Color Universal Design", 2008: people with any colour vision tell them apart."""

BLUE, ORANGE, VERMILION, GREEN, PURPLE, SKY = "#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
INK, MUTED, GRID, SHADE, PAPER = "#1f2328", "#656d76", "#dfe3e8", "#eef1f4", "#ffffff"
PERCENTILE_COLOURS = {"p50": BLUE, "p90": GREEN, "p99": VERMILION}
