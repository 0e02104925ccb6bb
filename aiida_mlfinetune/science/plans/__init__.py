"""What a labelling or a study is going to cost."""
