from .tiny_transformer import CharText as CharText
from .tiny_transformer import TinyTransformer as TinyTransformer
from .tiny_transformer import language_loss as language_loss
