"""Operations, memory accesses and energy of one inference."""
