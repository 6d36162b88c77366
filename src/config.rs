//! One struct per room, parsed once into final types; bad values never get past here.
