"""The command-line programs, installed as ``fpn_d2_tools`` beside the package."""
