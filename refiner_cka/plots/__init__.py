"""Figures of a result, fit for a paper as they come: functions of a `Result` that neither save nor show.

Each draws on axes (`ax=`) or in a figure of its own. `compose` puts panels together, of several results too, and
`styled` has all that is drawn inside it in a style.
"""

from .ceilings import ceiling as ceiling
from .composing import compose as compose
from .composing import named as named
from .composing import read_models as read_models
from .drawing import figures as figures
from .drawing import save_figures as save_figures
from .heatmaps import heatmap as heatmap
from .kinds import PLOTS as PLOTS
from .kinds import Case as Case
from .kinds import Kind as Kind
from .kinds import once as once
from .lines import compare as compare
from .lines import contrast as contrast
from .lines import curves as curves
from .models import Model as Model
from .panels import Panel as Panel
from .references import against as against
from .references import reference as reference
from .saving import check_format as check_format
from .saving import save as save
from .saving import save_figure as save_figure
from .smoothing import attention as attention
from .smoothing import attention_blocks as attention_blocks
from .smoothing import measure as measure
from .smoothing import smoothing as smoothing
from .smoothing import token_maps as token_maps
from .style import STYLES as STYLES
from .style import NothingToDraw as NothingToDraw
from .style import styled as styled
