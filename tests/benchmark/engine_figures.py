"""Topic engine: what the training engine promises."""
import data_figures

FIGURES = [*data_figures.FIGURES]
