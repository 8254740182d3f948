"""Secure coded aggregation: one upload, any U of A holders finish (specs/secure-aggregation.md).

Pure: bytes and arrays in, bytes and arrays out; no sockets, clock, files or Flower. Symbols are the specification's.

    parameters    n, A, U, T, K, L, Q, p, n_min                      section 1
    fleet         the operator's signed list of devices              section 2
    binding       what a device may join, vote for and release       section 3
    override      the operator's word on an undecided attempt        section 3
    limbs         weights and metrics in field elements              section 4
    shares        a mask and its seed-compressed shares              section 5
    sealing       boxes, signatures                                  section 6
    canonical     the one form of what is signed or kept             section 3
    messages      messages 0 to 6, their bytes and checks            section 6
    certificate   votes, the certified set                           section 6
    decoding      the sum of masks, from any U holders               section 6, "Decoding"
    client, holder, round: the three parts                           sections 3 to 6
"""
