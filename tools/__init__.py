"""The command lines, which are installed as ``fpn_d2_tools`` beside the package."""
