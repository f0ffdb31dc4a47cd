"""The text of the story generator: word lists, beats and scenery of little children's stories with named characters.

A story opens with two friends. One of them (or both) wishes for something, and the wish decides the plot: a trouble,
some help, an ending. The text is data in the format of `data_gen.stories.grammar.Grammar`, from which every token's
exact probability follows. tests/data_gen/stories/test_plots.py checks the rules that this needs. Left out: names and
sampling.
"""

import re


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _beats(text: str) -> dict[str, tuple[str, ...]]:
    """Beat -> passages, from "[beat]" headings, each followed by passages that end in "> next" or ">> next"."""
    sections = re.findall(r"\[(\w+)\]([^\[]*)", " ".join(text.split()))
    return {beat: tuple(re.findall(r"\S[^>]*>>? \w+", body)) for beat, body in sections}


# Slot -> words. Only trees may begin with a vowel: no {tree} follows "a".
WORDS: dict[str, tuple[str, ...]] = {
    # the kinds of animal or trade: A, B, a helper from the place, a stranger
    "pet": _words(
        "rabbit mouse squirrel hedgehog kitten puppy bear duckling piglet fox mole beaver hamster lamb frog raccoon "
        "fawn chipmunk koala panda penguin turtle"
    ),
    "pal": _words(
        "badger lizard toad ferret weasel marmot poodle pony dormouse gecko lemur meerkat shrew vole wombat skunk "
        "terrier calf colt beagle"
    ),
    "neighbour": _words(
        "baker farmer miller gardener tailor carpenter shepherd teacher doctor nurse sailor cook librarian potter "
        "weaver blacksmith poet cobbler beekeeper clockmaker shopkeeper pilot"
    ),
    "stranger": _words(
        "goat donkey horse goose heron swan camel giraffe moose bison stork pelican walrus reindeer llama zebra "
        "hippo wolf lion tiger kangaroo"
    ),
    "nature": _words(
        "cheerful curious lively playful clever merry thoughtful polite dreamy busy tidy bold bouncy jolly shy "
        "restless nimble spirited"
    ),
    "temper": _words(
        "helpful loyal sensible silly generous cautious witty graceful sporty noisy dainty plucky mischievous "
        "fearless peaceful talkative serious mellow"
    ),
    # objects and their adjectives
    "toy": _words(
        "ball kite drum doll puppet boat train truck whistle robot wagon puzzle hoop bell trumpet scooter rocket "
        "teddy pinwheel top dinosaur dragon flute rattle tractor castle tambourine"
    ),
    "shade": _words(
        "red blue green yellow purple pink brown black white grey golden silver crimson scarlet turquoise violet tan "
        "maroon lilac ruby striped dotted speckled"
    ),
    "tool": _words(
        "spade shovel rake hoe trowel bucket pail basket wheelbarrow cart ladder hammer mallet chisel pole hook "
        "lever pitchfork broom brush"
    ),
    "material": _words(
        "wooden steel tin copper brass bronze pewter nickel chrome bamboo plastic pine beech birch maple walnut willow"
    ),
    "treat": _words(
        "cake pie bun cookie muffin tart pancake waffle pudding biscuit scone doughnut cupcake pretzel dumpling "
        "bagel brownie strudel crumble flapjack croissant cheesecake"
    ),
    "taste": _words(
        "sweet sticky fruity nutty buttery creamy crunchy crispy fluffy spicy lemony minty cinnamon vanilla "
        "strawberry raspberry blueberry cherry pumpkin carrot banana coconut peach blackberry caramel"
    ),
    # where and when
    "place": _words(
        "valley village forest meadow garden town park glade grove hamlet harbour jungle hollow marsh dell thicket "
        "bay cove gorge woodland swamp dale clearing"
    ),
    "home": _words(
        "cottage cabin burrow hut tent barn treehouse den mill tower lighthouse bungalow caravan cave lodge "
        "farmhouse windmill greenhouse stable"
    ),
    "weather": _words("sunny windy cloudy misty breezy bright chilly foggy mild warm cool dewy hazy crisp clear"),
    "spot": _words(
        "bench bush log boulder hammock fence haystack woodpile trough birdbath signpost letterbox sundial scarecrow "
        "gatepost fountain statue stile"
    ),
    "tree": _words("oak elm ash fir spruce sycamore chestnut larch linden cypress hawthorn rowan alder aspen"),
    "flower": _words(
        "tulip daisy rose poppy lily daffodil sunflower bluebell buttercup marigold pansy primrose peony snowdrop "
        "foxglove dahlia lupin crocus petunia cornflower"
    ),
    # small things that a story mentions once or twice
    "garment": _words("scarf hat coat shawl cap sweater jacket bonnet cape waistcoat cardigan cloak jumper tunic"),
    "sound": _words(
        "bang crash thump splash squeak rustle creak growl buzz rumble clatter thud jingle hiss howl scratch knock "
        "clang"
    ),
    "game": _words(
        "tag hopscotch chess leapfrog checkers dominoes skittles bingo badminton cricket football tennis croquet "
        "marbles"
    ),
    "drink": _words("tea cocoa juice lemonade punch nectar broth cordial"),
}

# Object slot -> its adjective slot: {toy} is written out as two tokens, such as "red ball".
OBJECTS: dict[str, str] = {"toy": "shade", "tool": "material", "treat": "taste"}

# True in any weather, wherever the characters are.
SCENERY: tuple[str, ...] = (
    "overhead , small clouds drifted slowly by .",
    "somewhere in the leaves , birds were singing .",
    "tall grass swayed softly in the wind .",
    "bees hummed around the wild clover .",
    "far off , church bells rang twice .",
    "high above , swallows circled in the air .",
    "nearby , a brook bubbled over smooth pebbles .",
    "dry leaves rustled along the path .",
    "butterflies fluttered from blossom to blossom .",
    "pale light fell through the branches .",
    "hidden grasshoppers chirped without a pause .",
    "ants marched busily across the bare earth .",
    "wind whispered in the crowns of the trees .",
    "ripples spread across the little pond .",
    "dragonflies darted over the shallow water .",
    "beyond the hills , sheep were bleating .",
    "dewdrops sparkled on a spider 's web .",
    "geese honked far up in the sky .",
)

# Beat -> passages, all equally likely. {A} to {D} are names, {A.he} and similar ones pronouns, {toy} and similar ones
# slots. ( one | another ) is a choice between equally likely texts. After ">>" a sentence of scenery may follow. Each
# passage of "wish" starts a plot.
BEATS: dict[str, tuple[str, ...]] = _beats("""
[arrival]
once upon a time , a {nature} {pet} ( named | called ) {A} lived in a {home} near a {place} . > friend

in a {place} ( far away | beyond the mountains ) stood the {home} of {A} , a {nature} little {pet} . > friend

long ago , a {nature} {pet} ( named | called ) {A} had a {home} not far from a {place} . > friend

did you ever hear of {A} , the {nature} {pet} who lived in a {home} by the {place} ? > friend

[friend]
{A} had a ( good | dear | true ) friend ( named | called ) {B} , a {temper} {pal} . >> wish

next door lived {B} , a {temper} {pal} who ( loved jokes | laughed a lot | told funny tales ) . >> wish

the best friend of {A} was {B} , a {temper} {pal} . >> wish

every ( day | afternoon ) , {A} ( met | played with ) {B} , a {temper} {pal} . >> wish

[wish]
one {weather} morning , {A} could not find {A.his} {toy} .
{A.he} loved it more than ( anything else | all the others ) . >> lost_trouble

one {weather} morning , {A} and {B} ( went out to play | climbed the hill ) with a new {toy} . >> stuck_trouble

tomorrow was the birthday of {B} , so {A} ( decided | wanted ) to bake a {treat} for {B.him} . >> bake_trouble

one {weather} morning , {B} did not come out to play . {A} ( went | hurried ) to see why . >> ill_trouble

" i want a {flower} of my own , " said {A} . {B} ( brought | fetched ) a {tool} to help . >> garden_trouble

{A} and {B} wanted to ( explore | visit ) the ( other side of the river | island in the river ) . >> bridge_trouble

{A} and {B} built a fort of ( branches | sticks and leaves ) . by ( noon | lunchtime ) , it was finished .
>> fort_trouble

{A} ( sat down | went outside ) to share a {treat} with {B} . it was the ( last | only ) one . >> share_trouble

there was a ( big | great ) race , and the prize was a {toy} . {A} ( longed | hoped ) to win it . >> race_trouble

one {weather} morning , {A} heard a strange {sound} behind the ( wall | house ) . >> noise_trouble

{A} and {B} wanted to ( make | hang up ) a swing , but for that they needed a {tool} . >> swing_trouble

on the way to the ( market | library ) , {A} found a {toy} . {A} wanted to keep it . >> owner_trouble

one {weather} morning , {A} and {B} set off to ( pick berries | look for mushrooms ) beyond the hill .
>> astray_trouble

" let us put on a show , " said {B} . the whole {place} was ( to come | invited ) . >> show_trouble

somebody new had moved into the ( empty | old ) house by the ( church | school ) .
{A} wanted to ( say hello | know who it was ) . >> newcomer_trouble

{A} and {B} ( put | counted ) all their coins together and bought a {toy} . >> quarrel_trouble

on the way to the ( fair | circus ) , {A} and {B} heard a cry for help . >> mud_trouble

[lost_trouble]
{A} looked ( in every drawer | behind the door ) and under ( the bed | all the pillows ) , but the {toy} was gone .
" what shall i do ? " ( cried | sobbed ) {A} . >> lost_help

{A} searched the whole {home} ( twice | three times | again and again ) . there was no {toy} anywhere .
at last , {A} sat down and ( wept | hid {A.his} face ) . >> lost_help

[lost_help]
" where were you yesterday ? " asked {B} . {A} remembered ( a nap | a picnic ) beside the {spot} .
they ( ran | hurried ) there , and ( {A} | {B} ) found the {toy} . >> lost_end

" let us go back the same way , " said {B} . so {A} and {B} looked , until {A} ( stopped | shouted ) .
beside the {spot} lay the {toy} ! >> lost_end

" let us look outside , " said {B} . {B} had not gone far when {A} ( pointed | squealed ) .
( somebody | a kind soul ) had put the {toy} on the {spot} . >> end_two

[lost_end]
{A} hugged {A.his} {toy} and then {A.he} hugged {B} . " i will take ( better | good ) care of it now , "
{A} promised {B} . > end

" finding things is easy for two , " ( said | laughed ) {B} .
{A} and {B} took turns with the {toy} until ( supper | dark ) . > end

[stuck_trouble]
suddenly , a ( strong | wild ) wind blew the {toy} into a tall {tree} . {B} ( shook the trunk | tried to climb up ) ,
but ( it was no use | nothing helped ) . >> stuck_help

{B} threw the {toy} ( far | much ) too high , and it landed in a tall {tree} .
{B} climbed up , but soon {B.he} ( felt dizzy | was afraid ) . >> stuck_help

[stuck_help]
a {stranger} named {C} came by . " may i help ? " asked {C} .
{C} shook the {tree} , and down ( fell | tumbled ) the {toy} . " ( thank you | hurray ) ! " shouted {A} . >> stuck_end

a {stranger} named {C} ( stopped | turned round ) . {C} stretched higher and higher .
" almost there ! " ( cheered | shouted ) {A} . then {C} had the {toy} . >> end_three

[stuck_end]
" may i ( play too | have a turn ) ? " asked {C} .
so {A} , {B} and {C} played with the {toy} until ( supper | dark ) . > end

{B} bowed to {C} , and {A} clapped . " trees like toys too , " ( joked | laughed ) {C} .
after that , {A} and {B} stayed in the open . > end

[bake_trouble]
{A} opened the cupboard . there was ( butter | sugar ) , but there was ( no flour | not a single egg ) left .
" oh dear ! " ( said | sighed ) {A} . >> bake_borrow

{A} stirred and stirred , but the oven was ( far | much ) too hot .
soon the {treat} was ( burnt | as hard as rock ) , and {A} ( cried | groaned ) . >> bake_again

[bake_borrow]
{A} ran to {C} , the {neighbour} , and ( explained | told {C.him} ) everything .
" take whatever you need , " said {C} . {C} ( even | also ) gave {A} a recipe . >> bake_end

first {A} helped a {neighbour} named {C} to carry a heavy bag . " what do you want ? " asked {C} .
{A} told {C} , and ( soon | then ) the {treat} was in the oven . >> bake_end

[bake_again]
the smell reached a {neighbour} named {C} . " we will try again together , " said {C} .
{C} ( measured the flour | beat the eggs ) , and {A} ( watched the clock | washed the bowls ) . >> bake_end

at the window stood {C} , the {neighbour} . " everyone burns the first one , " said {C} .
{C} ( tied on an apron | rolled up {C.his} sleeves ) and helped {A} . >> bake_end

[bake_end]
in the morning , {B} ( gasped | could not believe {B.his} eyes ) . " a {treat} ! " whispered {B} .
{A} and {C} sang a birthday song for {B} . > end

{A} and {C} hid behind the door with the {treat} until {B} came . " happy birthday ! " said {C} .
{B} ( laughed | danced ) and cut ( four | five ) big slices . > end

[ill_trouble]
{B} lay in bed with a ( sore throat | bad cold ) . " i am so bored , " ( said | coughed ) {B} .
{A} wanted to cheer {B.him} up . >> ill_help

" go away , " ( said | croaked ) {B} . " i have spots all over my nose . "
{A} ( did not laugh | sat down by the bed ) . >> ill_help

[ill_help]
{A} ( hurried | raced ) home and fetched {A.his} {toy} . " you may keep it until you are well , " said {A} .
{B} ( held | hugged ) the {toy} and smiled at last . >> ill_end

" shut your eyes , " said {A} , and {A.he} put a {toy} on the blanket . {B} ( peeped | looked ) .
" your own {toy} ! " ( said | whispered ) {B} . >> ill_end

{A} told {B} a long story about a {toy} that ( sailed the seas | flew to the moon | ran away from school ) .
{A} even ( drew | painted ) the {toy} for {B} . >> ill_story

[ill_end]
after ( three | six ) days , {B} was well again . {B} ( gave | brought ) back the {toy} and a big ( kiss | hug ) too .
{A} had missed {B} so much . > end

the next week , it was {A} who ( sneezed | caught the cold ) . so {B} came with the {toy} and a cup of {drink} .
" my turn ! " said {B} . > end

[ill_story]
" what happened then ? " asked {B} . but {A} had fallen asleep , and soon {B} ( slept | snored ) too . > end

{B} laughed so much that {B.he} forgot the ( fever | pain ) . " come back tomorrow with more , " said {B} .
and {A} did . > end

[garden_trouble]
the {tool} was just right , and ( soon | quickly ) a seed was planted .
{A} and {B} ( waited | looked ) every day , but nothing ( grew | happened ) . >> garden_help

with the {tool} it was soon done . but ( greedy | hungry ) slugs ate the first leaves .
" it will never bloom , " ( sighed | said ) {A} . >> garden_help

[garden_help]
" plants need time and water , " said {B} . so {B} ( carried water | filled the can ) each evening , and {A}
( sang to the soil | pulled up the weeds ) . >> garden_end

{B} asked the {neighbour} , who told {B.him} to water it and ( be gentle | wait ) . so {A} put on a {garment}
and watered it even when it was ( cold | dark ) . >> garden_end

[garden_end]
then , at dawn , a {flower} opened its petals . it was taller than ( {A} | {B} ) .
" it was worth the wait , " said {B} , and {A} ( nodded | agreed ) . > end

at last , a tiny bud appeared , and it became the ( finest | prettiest ) {flower} of the year .
{A} thanked {B} , and {B} put the {tool} away . > end

[bridge_trouble]
but the bridge had been ( washed away | broken ) by a flood . {A} ( stared | looked ) at the
( deep | icy ) water . " we will never get across , " ( said | sighed ) {B} . >> bridge_help

in the middle of the bridge , a plank ( cracked | broke ) . {B} almost fell , but {A} ( caught | grabbed ) {B.him}
just in time . >> bridge_help

[bridge_help]
a {neighbour} named {C} saw it . {C} came with a {tool} and ( new planks | a pile of boards ) .
{A} and {B} ( held the nails | carried them ) , and {C} used the {tool} . >> bridge_end

a {neighbour} named {C} came with a {tool} . " let us mend it together , " said {C} .
the {tool} was heavy , so {A} and {B} helped {C} . >> bridge_end

[bridge_end]
soon the bridge was as good as new . {A} crossed it first , then {B} , then {C} .
on the other side they ( ate wild grapes | dipped their feet in the water ) . > end

" now you may cross , " said {C} . {A} and {B} ( thanked | hugged ) {C} and ran over the bridge ,
( laughing | singing ) all the way . > end

[fort_trouble]
soon it ( poured | rained ) . a wet {neighbour} named {C} ran up . " is there room for me ? " asked {C} .
" yes , come in ! " said ( {A} | {B} ) . >> fort_help

then it thundered . a {neighbour} named {C} came running . " may i come in ? " asked {C} .
{A} and {B} lent {C} a dry {garment} . >> fort_help

[fort_help]
then came {D} , a cold {stranger} . {D} was so ( big | wide ) that the roof shook .
but {C} ( moved over | breathed in ) , {A} and {B} too , and {D} squeezed in . >> fort_end

" room for one more ? " asked {D} , a {stranger} . it was ( tight | cramped ) , but {B} and {C} pulled {D} in ,
and {D} told {A} a long story . >> fort_end

[fort_end]
when the sky cleared , {C} and {D} thanked {A} and {B} . " a fort with a big heart , " said {C} . > end

at last the rain stopped . {A} , {B} , {C} and {D} ( stamped | hopped ) in every puddle on the way home . > end

[share_trouble]
soon a {neighbour} named {C} came by . {C} looked ( weak | weary ) .
then came {D} , a thin {stranger} . " i am so hungry , " ( said | sighed ) {D} . >> share_help

just then , a {stranger} named {D} sat down beside them . {D} ( sniffed | looked at the {treat} ) .
" that smells good , " said {C} , a {neighbour} . >> share_help

[share_help]
{A} ( looked at | winked at ) {B} , and {B} nodded . they cut the {treat} into four pieces .
{C} ate slowly , and {D} licked up every ( last | single ) crumb . >> share_end

it was a small {treat} , but {B} ( brought plates | spread a cloth ) , and {A} made a cup of {drink} for {C} and {D} .
>> share_end

[share_end]
the next day , {C} came back with ( fresh bread | a jar of honey ) , and {D} brought apples .
{A} and {B} had a feast with {C} and {D} . > end

" what a {treat} ! " ( said | cried ) {D} and {C} . so {A} and {B} had two new friends , {C} and {D} . > end

[race_trouble]
" ready , steady , go ! " called {B} . a {neighbour} named {C} ( shot ahead | took the lead ) ,
and {D} , a {stranger} , ( came close | was right ) behind . >> race_help

at the start , {A} and {B} stood next to a {stranger} named {D} . {D} looked ( fast | strong ) .
" good luck ! " said {C} , a {neighbour} . >> race_help

[race_help]
then {D} ( tripped | slipped ) and fell . {A} was in front , but {A.he} ( turned back | stopped )
and helped {D} up . so {C} won , and {B} came second . >> race_end

in the last bend , {D} and {C} ( bumped into each other | tumbled over a root ) . {A} and {B} ran back to help .
" nobody has won ! " said {D} . >> race_tie

[race_end]
{C} took the {toy} and gave it to {A} . " you were the real winner , " said {C} .
{B} and {D} ( cheered | clapped ) . > end

{C} ( blushed | laughed ) . " this {toy} is for {A} , " said {C} . then {D} lifted {A} up , and {B} cheered . > end

[race_tie]
{A} took {D} by the arm , and {B} helped {C} . they crossed the line ( together | as one ) ,
and {C} gave the {toy} to everyone in turn . > end

so {A} and {B} , {C} and {D} walked over the line together . " one {toy} for four ! " ( laughed | joked ) {C} . > end

[noise_trouble]
" what if it is a ( monster | ghost | giant ) ? " thought {A} . {A.he} ( crept | ran ) to {B} and
( whispered | said ) , " listen , there it is again ! " >> noise_help

{A} put a pillow over {A.his} ears , but the {sound} did not stop . so {A} called {B} ,
who came at once in a {garment} . >> noise_help

[noise_help]
" we will look together , " said {B} . they ( tiptoed | crept ) closer , and {A} held on to {B} .
it was only ( a loose shutter | an old gate ) in the wind . >> noise_end

{B} ( went | marched ) ahead with a candle , and {A} followed . then {A} began to laugh .
a ( hen | little owl ) was sitting there , and it was more afraid than {B} . >> end_two

{B} ( counted | whispered ) , " one , two , three ! " and {A} and {B} jumped round the corner .
there was only the {neighbour} , who was mending a chair . >> noise_end

[noise_end]
" things are less scary when there are two of us , " said {B} .
and {A} laughed until {A.his} ( belly | sides ) hurt . > end

{A} ( sighed | breathed ) with relief . after that , {B} only had to make a funny noise ,
and {A} and {B} laughed again . > end

[swing_trouble]
so they borrowed one from {C} , the {neighbour} . but {A} was ( careless | in a hurry ) , and the {tool} broke .
" we could hide it , " ( whispered | said ) {B} . >> swing_help

so they went to {C} , the {neighbour} , who lent them one . but {B} ( dropped | lost ) the {tool} in the pond ,
and {A} could not ( get | find ) it . >> swing_sorry

[swing_help]
but {A} and {B} took the {tool} back and ( told {C} the truth | said sorry to {C} ) .
" thank you for being honest , " said {C} . >> swing_end

" no , " said {A} . they went to {C} with hot ears . {C} looked at the {tool} .
" it can be mended , " said {C} . >> swing_end

[swing_sorry]
{B} ( trembled | swallowed ) . " i will tell {C} , " {B.he} said , and {A} went along .
but {C} ( was not angry | only chuckled ) and got the {tool} out with a net . >> swing_end

{A} wanted to ( hide | run away ) , but {B} knocked at the door of {C} .
" a {tool} is only a {tool} , " ( said | smiled ) {C} . >> swing_end

[swing_end]
that afternoon , {C} showed {A} and {B} how to use a {tool} . before ( dark | supper ) , the swing was ready . > end

{A} and {B} ( swept the yard | stacked the firewood ) to make up for it .
and who sat first on the new swing ? {C} ! > end

[owner_trouble]
" ( someone | somebody ) will miss it , " said {B} . {A} ( frowned | held it tight ) . then they saw {C} ,
a {stranger} , who was looking ( everywhere | for something ) . >> owner_help

{B} ( shook {B.his} head | was worried ) . at the corner sat {C} , a {stranger} , and big tears ran down {C.his} face .
{A} hid the {toy} . >> owner_help

[owner_help]
" what is wrong ? " asked {B} . " i lost my {toy} , " ( said | sobbed ) {C} .
{A} ( blushed | swallowed ) and held it out . {C} ( jumped for joy | beamed ) . >> owner_end

{B} ( looked at | nudged ) {A} . " is this your {toy} ? " {A} asked {C} . " yes ! " said {C} .
" it was a present . " >> owner_end

[owner_end]
" would you like to play with us ? " asked {B} . {C} ( nodded | smiled ) .
{A} had lost a {toy} , but now {A.he} had ( found | made ) a friend . > end

{C} let {A} and {B} play with the {toy} too . " giving it back feels better than keeping it , " ( thought | said ) {A} .
> end

[astray_trouble]
but soon ( thick | heavy ) fog came down . " we are lost ! " cried {A} .
{B} tried to be brave , but {B.his} voice shook . >> astray_help

they walked ( on and on | further and further ) , until {A} did not know the way back . {B} called out ,
but only an echo answered . >> astray_help

[astray_help]
then a lamp shone . it was {C} , an old {stranger} in a {garment} . " follow me , " said {C} .
{C} led {A} and {B} back to the {place} . >> astray_end

" who is there ? " asked a deep voice . it was {C} , a {stranger} . {C} knew every ( stone | root ) ,
and {A} and {B} followed {C} back to the road . >> end_three

[astray_end]
" there is my {home} ! " ( shouted | cheered ) {A} . {B} asked {C} to stay ,
and {C} had a cup of {drink} with them . > end

{A} gave {C} all the ( food | fruit ) that they had picked . " come and ( see | visit ) us , " said {B} ,
and {C} ( promised | did ) . > end

[show_trouble]
a {neighbour} named {C} painted the stage , and a {stranger} named {D} sold the tickets .
{B} danced . but then {A} came on and forgot ( the song | every word ) . >> show_help

on the stage , {C} , a {neighbour} , played the fiddle , and {D} , a {stranger} , beat time .
{B} bowed , but {A} ( stood | froze ) like a stone . >> show_help

[show_help]
{C} ( winked | waved ) from the side . {D} began to hum , and {B} hummed along . then {C} and {D} clapped softly ,
and {A} ( sang | remembered the song ) . >> show_end

{B} stood next to {A} . " sing for {C} , " {B.he} whispered . so {A} looked at {C} and sang ,
and {D} was so moved that {D} ( wept | hummed along ) . >> show_end

[show_end]
at the end , {C} and {D} threw ( paper stars | flowers ) on the stage .
{A} and {B} bowed ( deeply | seven times ) . > end

" more ! more ! " called {D} and {C} . so {A} sang again , and {B} danced until the ( stars | moon ) came out . > end

[newcomer_trouble]
through the window {A} and {B} saw a {neighbour} in a {garment} . it was {C} , and {C} ( sat | stood ) all alone
among ( boxes | suitcases ) . >> newcomer_help

it was {C} , a {neighbour} , who did not know anyone . {C} ( never smiled | always looked down ) .
" {C} must be lonely , " said {B} . >> newcomer_help

[newcomer_help]
so {A} and {B} brought a {treat} . " welcome ! " said {A} .
{C} looked at the {treat} . " is that for me ? " ( asked | stammered ) {C} . >> newcomer_end

{B} had a {treat} , and {A} ( picked | found ) some flowers . {C} opened the door .
" come in , and let us eat the {treat} , " said {C} . >> newcomer_end

[newcomer_end]
{C} could ( juggle with five eggs | play the fiddle ) . {A} and {B} had never laughed so much .
the next day , they took {C} to ( the fair | all their friends ) . > end

then {C} showed {A} and {B} a box full of ( maps | seashells | old coins ) .
and {C} was never lonely again . > end

[quarrel_trouble]
" me first ! " shouted {A} . " no , me ! " shouted {B} . they pulled and pulled ,
until the {toy} broke with a loud {sound} . >> quarrel_mend

but {A} did not want to wait , and {B} ( stamped {B.his} foot | pushed ) .
soon they did not speak to each other , and nobody played with the {toy} . >> quarrel_peace

[quarrel_mend]
{A} and {B} were ashamed . they took it to a {neighbour} named {C} . with glue and ( thread | string ) , {C} mended it .
" can you mend your friendship too ? " asked {C} . >> quarrel_end

a {neighbour} named {C} heard it . " i can mend a {toy} , but not a friendship , " said {C} .
{A} and {B} ( looked at each other | lowered their eyes ) , and {C} smiled . >> quarrel_end

[quarrel_peace]
a {neighbour} named {C} came past . " then i will take it , " ( joked | said ) {C} . " no ! it is ours ! "
cried {A} and {B} , and {C} laughed . >> quarrel_end

" why are you so quiet ? " asked {C} , the {neighbour} . {A} told {C} , and {B} listened .
" toss a coin , " said {C} , and so they did . >> end_three

[quarrel_end]
" you may have the {toy} first , " said {A} . " no , you ! " said {B} . {C} ( chuckled | went home happily ) . > end

so {A} and {B} said sorry . they ( made | thought of ) a game with the {toy} that needed two ,
and {C} watched it . > end

[mud_trouble]
a big {stranger} named {C} was stuck in the mud up to {C.his} ( knees | chin ) .
{A} pulled and {B} pushed , but {C} did not move . >> mud_help

there was {C} , a {stranger} , in a ditch . " i can not get out ! " ( cried | groaned ) {C} .
{A} and {B} ( pulled | tried ) as hard as they could . >> mud_help

[mud_help]
{B} ran off and came back with {D} , a {neighbour} . {D} had a {tool} .
with the {tool} , {D} and {A} ( freed | saved ) {C} . >> mud_end

then a {neighbour} named {D} came with a {tool} . " let me try , " said {D} .
with the {tool} , {D} had {C} out in ( no time | a minute ) . >> mud_end

[mud_end]
{C} was free ! {D} laughed , because {A} and {B} were as ( dirty | muddy ) as {C} .
they all had a bath in the river . > end

" i owe you a treat , " said {C} . so {C} ( cooked | made ) supper for {A} , {B} and {D} . > end

[end_two]
{A} and {B} ( danced | jumped | skipped ) for joy . then they played {game} until ( supper | bedtime ) .
it was a ( lovely | perfect | wonderful ) day . > end

" i am ( so | very | really ) glad that you are my friend , " said {A} .
{B} ( smiled | blushed ) , and they walked home under the evening stars . > end

that ( evening | night ) , {A} and {B} sat ( by the fire | on the doorstep ) with a cup of {drink} .
they ( talked | giggled ) until they fell asleep . > end

[end_three]
{A} , {B} and {C} ( laughed | sang ) all the way home . from then on , the three friends met every
( week | month ) . > end

" shall we meet again tomorrow ? " asked {C} . " yes , please ! " said {A} and {B} .
the next day they played {game} . > end

{A} poured {C} a cup of {drink} , and {B} told a ( funny | long ) story . {C} laughed so loudly that the cups
( danced | trembled ) . > end
""")
