"""An elastic network: what may be chosen in it, its three modes, its costs, networks cut out of it."""
