"""The four models of the paper, SCAN, PFAN, BFAN and SGRAF, behind one interface (`base`), and the encoders that they
share.
"""
