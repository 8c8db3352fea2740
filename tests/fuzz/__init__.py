"""A seeded fuzz of everything that reads users' files and options."""
from . import annotations, checkpoints, options, pictures

DOMAINS = {module.__name__.rpartition('.')[2]: module.generate
           for module in (checkpoints, annotations, pictures, options)}
