"""The data folder that training and evaluation read: splits, tokens, vocabulary, boxes and word-to-box truth; `prepare`
makes one.
"""
