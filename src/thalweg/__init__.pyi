__version__: str

from . import catalogue as catalogue
from . import data as data
from . import descent as descent
from . import inference as inference
from . import language as language
from . import linalg as linalg
from . import streams as streams
from . import transport as transport
