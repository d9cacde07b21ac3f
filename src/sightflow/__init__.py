"""Turns a bucket of images and videos into a validated, queryable catalog with vision-language models."""
