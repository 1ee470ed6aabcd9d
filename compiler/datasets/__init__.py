"""Calibration, selection and test data from arrays, tables and folders of images."""
