"""Turns a bucket of images and videos into a validated, queryable catalog with vision-language models."""

import logging

# What a program does with our logs is its own choice: without one, Python would print warnings on its screen.
logging.getLogger(__name__).addHandler(logging.NullHandler())
