"""CartPole with physics of one's choice."""

from typing import Any

from gymnasium.envs.classic_control.cartpole import CartPoleEnv as GymnasiumCartPoleEnv


class CartPoleEnv(GymnasiumCartPoleEnv):
    """The pole on a cart of gymnasium (Barto, Sutton and Anderson, 1983), whose physics are given and not observed.

    A negative force swaps what the two actions mean.

    Args:
        gravity (`float`, *optional*, defaults to `9.8`): In m/s².
        masscart (`float`, *optional*, defaults to `1.0`): Mass of the cart, in kg.
        masspole (`float`, *optional*, defaults to `0.1`): Mass of the pole, in kg.
        length (`float`, *optional*, defaults to `0.5`): Half of the pole's length, in m.
        force_mag (`float`, *optional*, defaults to `10.0`): Force of action 1, in N; action 0 is its opposite.
        kwargs: As for gymnasium's environment.

    Raises:
        ValueError: If a mass or the length is not positive.
    """

    def __init__(
        self,
        *,
        gravity: float = 9.8,
        masscart: float = 1.0,
        masspole: float = 0.1,
        length: float = 0.5,
        force_mag: float = 10.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, value in (("masscart", masscart), ("masspole", masspole), ("length", length)):
            if not value > 0:
                raise ValueError(f"{name}={value} is out of range: expected more than 0.")
        self.gravity, self.masscart, self.masspole = gravity, masscart, masspole
        self.length, self.force_mag = length, force_mag
        # What gymnasium's environment has computed from its own physics.
        self.total_mass, self.polemass_length = masscart + masspole, masspole * length
