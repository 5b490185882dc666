"""Augmentation of training images and their boxes."""
