"""Topic engine: what the training engine promises."""
import checkpoint_figures
import data_figures
import invariance_figures
import models_figures

FIGURES = [*data_figures.FIGURES, *invariance_figures.FIGURES, *models_figures.FIGURES, *checkpoint_figures.FIGURES]
