pub struct Item{pub prompt:String,pub right:String,pub wrong:String}
pub struct List{pub prompt:String,pub responses:Vec<String>,pub right:String}
pub struct World{seed:u64}
impl World{pub fn new(seed:u64)->World{World{seed}}
fn item(&self,i:u64)->Item{let r=crate::base::rng::Rng::new(self.seed,crate::base::rng::Stream::World,0);let a=r.below(i*2,90)+5;let b=r.below(i*2+1,90)+5;let (x,y)=(a.max(b),a.min(b));Item{prompt:format!("Which is larger, {a} or {b}?"),right:format!("{x} is larger."),wrong:format!("{y} is larger.")}}
pub fn unlabelled(&self,n:usize)->Vec<Item>{(0..n as u64).map(|i|self.item(i)).collect()}
pub fn labelled(&self,n:usize)->Vec<Item>{(0..n as u64).map(|i|self.item(i+100000)).collect()}
pub fn held_out(&self,n:usize)->Vec<Item>{(0..n as u64).map(|i|self.item(i+200000)).collect()}
pub fn list(&self)->List{let i=self.item(300000);List{prompt:i.prompt,responses:vec![i.right.clone(),i.wrong],right:i.right}}}
