from .autoregressive import MADE as MADE
from .autoregressive import sample_autoregressive as sample_autoregressive
from .recurrent import JacobiBackwardRNN as JacobiBackwardRNN
from .recurrent import rnn_adjoint as rnn_adjoint
from .tiny_transformer import CharText as CharText
from .tiny_transformer import TinyTransformer as TinyTransformer
from .tiny_transformer import language_loss as language_loss
